# Needs Python >= 3.10 and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

PYTEST = $(RUN) -m pytest -n 2

.PHONY: help demo serve test test-slow test-all test-prerelease beam lint docs dist clean

help: ## List all targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

# Without n-grams, which would have most of the weights and the first word.
demo: $(VENV)/examples.installed ## Install, train a small classifier, export it, ask it three texts
	$(RUN) examples/sentiment.py --dataset toy_reviews --units 32 --epochs 3 --batch-size 32 \
		--buckets 0 --dropout 0
	$(RUN) examples/ask.py saved_models/toy_reviews \
		"The plot was not dreadful, it was truly gripping." \
		"The acting was superb, but the ending was awful." \
		"I found the story moving. We met at noon near the station. The critics called it boring."
	@echo "Next: run 'make serve', and try two larger models at http://localhost:8501/ in a browser."

# A stand-in for TensorFlow Serving, with the models that lie here.
serve: $(VENV)/examples.installed ## Serve the models of saved_models/, with a page to try them
	$(RUN) examples/stand_in_server.py saved_models/models.config

test: $(VENV)/test.installed ## Install, and run the fast tests
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/test.installed $(VENV)/docs.installed ## Run what `test` leaves out: more of the grids, long trainings
	$(PYTEST) -m "slow and not long"

test-all: $(VENV)/test.installed $(VENV)/docs.installed ## Run all tests, with whole grids of options
	WHOLE_GRIDS=1 $(PYTEST)

# Apache Beam wants protobuf < 7, so it has an environment of its own.
beam: ## Install Apache Beam into $(VENV)-beam, and test examples/score.py there
	$(MAKE) VENV=$(VENV)-beam $(VENV)-beam/beam.installed
	$(VENV)-beam/bin/python -m pip install --quiet "pytest>=8.0"
	$(VENV)-beam/bin/python -m pytest tests/test_score.py

test-prerelease: $(VENV)/test.installed ## Run the fast tests with the newest pre-release of Keras
	.ci/test_keras $(RUN)

lint: $(VENV)/test.installed ## Check the style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The site opens from disk. Material for MkDocs announces its successor unless it is told not to.
docs: $(VENV)/docs.installed ## Write the documentation to site/
	NO_MKDOCS_2_WARNING=1 TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -m mkdocs build --strict
	@echo "Open site/index.html in a browser."

dist: $(VENV)/test.installed ## Build the wheel and the source distribution, and try both
	.ci/dist $(RUN)

# One stamp for each extra, so that an edit of setup.cfg installs anew.
$(VENV)/%.installed: setup.cfg pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the extra '$*' into $(VENV), once. The demo's packages take 2.4 GB, the tests' 3.9 GB."
	$(RUN) -m pip install --quiet --upgrade pip  # older ones search for versions for an hour
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@

clean: ## Remove what was installed and built
	rm -rf $(VENV) $(VENV)-beam build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
