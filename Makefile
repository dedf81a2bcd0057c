# Two commands: `make compare` and `make test`. Each prepares .venv by itself, and again only when
# pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
TEST_WORKERS ?= 2

.PHONY: compare reference charts report test test-browser check lab app notebooks slides bench soak

compare: .venv/ready
	$(BIN)/labkit compare --out $(RUN) $(ARGS)

# Every experiment of data/suites/reference.toml, five times over: the better part of an hour. Stopped at any point,
# `labkit reference --resume DIR` goes on.
reference: .venv/ready
	$(BIN)/labkit reference --out $(RUN) $(ARGS)

# Everything that data/reference can show, without a server: all charts, and those of the README.
charts: .venv/ready
	$(BIN)/labkit charts data/reference --out charts
	$(BIN)/python docs/readme.py charts

report: .venv/ready
	$(BIN)/labkit report data/reference --out report.html

test: .venv/ready
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadscope --ignore tests/browser tests $(ARGS)
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadscope --nbval-lax --nbval-cell-timeout 60 notebooks

# The notebooks in a real JupyterLab and a real Chromium; screenshots and what was measured go to test-output.
# With TEST_WORKERS=0 nothing else is measured at the same time.
test-browser: .venv/ready
	rm -rf test-output
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --timeout 300 tests/browser $(ARGS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: .venv/ready
	$(BIN)/labkit lab $(ARGS)

# The dashboard alone on a page, for a projector.
app: .venv/ready
	$(BIN)/labkit app $(ARGS)

notebooks: .venv/ready
	$(BIN)/jupyter execute --inplace --NotebookClient.store_widget_state=False --NotebookClient.record_timing=False notebooks/*.ipynb
	# A progress bar is for the one who waits; without its kernel it would show 0 % forever.
	$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --inplace \
		--TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_all_outputs_tags progress notebooks/*.ipynb

# One page per notebook that needs no network; arrow keys and the space bar turn its slides.
slides: .venv/ready
	$(BIN)/jupyter nbconvert --log-level ERROR --to html --template slides \
		--TemplateExporter.extra_template_basedirs=notebooks --output-dir slides notebooks/*.ipynb

bench: .venv/ready
	$(BIN)/python bench/floor.py

# Fifty outages of every kind for every protocol, and a subscriber that stops reading: a quarter of an hour.
soak: .venv/ready
	$(BIN)/python bench/soak.py $(ARGS)
	$(BIN)/python bench/slow.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[app,test]'
	touch $@
