// Asks a SavedModel some requests through LoadSavedModel, the server's own loader.
//
//     load_saved_model VERSION REQUEST ...
//
// A REQUEST is a file of fields, each a 4-byte length and its bytes: the name of the signature; the
// number of inputs, and of each the name and its TensorProto; and the same of the expected outputs.
// (The library does not know PredictionLog.) Prints the largest difference to what is expected.

#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <unordered_set>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tf = tensorflow;
using Tensors = std::vector<std::pair<std::string, tf::Tensor>>;

std::string ReadField(std::istream& file) {
  std::uint32_t size = 0;
  file.read(reinterpret_cast<char*>(&size), 4);
  std::string field(size, '\0');
  file.read(field.data(), size);
  return field;
}

Tensors ReadTensors(std::istream& file) {
  Tensors tensors;
  const int count = std::stoi(ReadField(file));
  for (int i = 0; i < count; ++i) {
    std::string name = ReadField(file);
    tf::TensorProto proto;
    tf::Tensor tensor;
    if (!proto.ParseFromString(ReadField(file)) || !tensor.FromProto(proto)) {
      std::cerr << "cannot read " << name << "\n";
      std::exit(2);
    }
    tensors.emplace_back(name, tensor);
  }
  return tensors;
}

double Difference(const tf::Tensor& a, const tf::Tensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return INFINITY;
  double worst = 0;
  if (a.dtype() == tf::DT_FLOAT) {
    for (std::int64_t i = 0; i < a.NumElements(); ++i) {
      const double difference = std::abs(a.flat<float>()(i) - b.flat<float>()(i));
      worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    }
  } else if (a.dtype() == tf::DT_STRING) {
    for (std::int64_t i = 0; i < a.NumElements(); ++i) {
      if (a.flat<tf::tstring>()(i) != b.flat<tf::tstring>()(i)) worst = INFINITY;
    }
  } else if (a.tensor_data() != b.tensor_data()) {
    worst = INFINITY;
  }
  return worst;
}

int main(int argc, char** argv) {
  tf::SavedModelBundle bundle;
  auto status = tf::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  double worst = 0;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const auto& signature = bundle.GetSignatures().at(ReadField(file));
    Tensors feeds;
    for (auto& [name, tensor] : ReadTensors(file)) {
      feeds.emplace_back(signature.inputs().at(name).name(), tensor);
    }
    std::vector<std::string> fetches;
    const Tensors expected = ReadTensors(file);
    for (const auto& [name, tensor] : expected) {
      fetches.push_back(signature.outputs().at(name).name());
    }
    std::vector<tf::Tensor> answers;
    status = bundle.GetSession()->Run(feeds, fetches, {}, &answers);
    if (!status.ok()) {
      std::cerr << status.ToString() << "\n";
      return 1;
    }
    for (std::size_t j = 0; j < answers.size(); ++j) {
      worst = std::max(worst, Difference(answers[j], expected[j].second));
    }
  }
  std::cout << argc - 2 << " " << worst << "\n";
  return worst < 1e-5 ? 0 : 1;
}
