# make demo   set everything up, run the whole engine on the starter world, offline after the install, and serve what it made
# make test   run the tests
# make lint   check style and types
# make bench  run the expensive benchmarks (hours)
# make figures  fill the pages and draw the plots from what benchmarks wrote

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tilth-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PORT ?= 8080
WORKERS ?= 2  # of the tests, a core and about 3 GB each

.PHONY: install demo test lint bench figures serve clean

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m tilth.starter world --kinds all --given 8 --out runs/faithful-world
	HF_HUB_OFFLINE=1 $(BIN)/tilth run configs/recipes/starter.yaml
	@echo "The report: runs/starter/report.html"
	@if [ -t 1 ]; then $(MAKE) --no-print-directory serve; else echo "The moderator: make serve"; fi

serve: $(STAMP)
	$(BIN)/tilth serve runs/starter/bundle --port $(PORT)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/loop.py

figures: $(STAMP)
	$(BIN)/python benchmarks/figures.py

clean:
	rm -rf build runs
