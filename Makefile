# Needs Python >= 3.10 and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

PYTEST = $(RUN) -m pytest -n 2

.PHONY: demo serve test test-slow test-all lint clean

# The network alone: a table of word runs would have most of the weights, and the first word.
demo: $(VENV)/examples.installed
	$(RUN) examples/sentiment.py --dataset toy_reviews --units 32 --epochs 3 --batch-size 32 \
		--buckets 0 --dropout 0
	$(RUN) examples/ask.py saved_models/toy_reviews \
		"The plot was not dreadful, it was truly gripping." \
		"The acting was superb, but the ending was awful." \
		"I found the story moving. We met at noon near the station. The critics called it boring."

# A stand-in for TensorFlow Serving, with the models that lie here.
serve: $(VENV)/examples.installed
	$(RUN) examples/stand_in_server.py saved_models/models.config

test: $(VENV)/test.installed
	$(PYTEST) -m "not slow"

# What `test` leaves out: full grids, long trainings.
test-slow: $(VENV)/test.installed
	$(PYTEST) -m slow

test-all: $(VENV)/test.installed
	$(PYTEST)

lint: $(VENV)/test.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# One stamp for each extra, so that an edit of setup.cfg installs anew.
$(VENV)/%.installed: setup.cfg pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip  # older ones search for versions for an hour
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
