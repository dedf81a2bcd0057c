# Two commands: `make compare` and `make test`. Each prepares .venv by itself, and again only when
# pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
TEST_WORKERS ?= 2

.PHONY: compare test check lab notebooks slides bench soak

compare: .venv/ready
	$(BIN)/labkit compare --out $(RUN) $(ARGS)

test: .venv/ready
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadscope tests $(ARGS)
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadscope --nbval-lax --nbval-cell-timeout 60 notebooks

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: .venv/ready
	$(BIN)/labkit lab $(ARGS)

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

# Fifty outages of every kind for every protocol, and a subscriber that stops reading: some minutes.
soak: .venv/ready
	$(BIN)/python bench/soak.py $(ARGS)
	$(BIN)/python bench/slow.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
