# make demo   set up and run the main job on two synthetic studies
# make test   set up, check the style, run the tests
# make panel  the Slicer modules in a window without Slicer (FILES="a.nii.gz b.nrrd" loads them)
# make screenshots  pictures of the panel and the dialog, on phantoms -> Docs/panel
# make bench  what the whole costs over the bare networks -> bench.json
# make picture  the page of the demo's spoilt study -> Docs/report.png (needs chromium)

PYTHON ?= python3
BROWSER ?= chromium
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test panel screenshots bench style wheel picture clean
.DEFAULT_GOAL := demo

.venv/ready: requirements.txt pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch .venv/ready

.venv: .venv/ready

demo: .venv/ready
	$(BIN)/rvqc demo

style: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A process a core, of one thread each. The panel's tests are runs of pytest of their own: the stand-in's qt, ctk and slicer
# must not leak into the engine's tests, and every file of them begins with a fresh application, a file a core. Where the
# stand-in cannot be installed or started its tests are skipped and the reason is printed.
PANEL_TESTS := $(wildcard Testing/panel/test_*.py)
test: style
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
	-$(MAKE) --no-print-directory .venv/panel
	$(MAKE) --no-print-directory --jobs $$(getconf _NPROCESSORS_ONLN) $(addprefix --,$(filter output-sync,$(.FEATURES))) $(PANEL_TESTS)

.PHONY: $(PANEL_TESTS)
$(PANEL_TESTS):
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs $@ || [ $$? = 5 ]

.venv/panel: .venv/ready Testing/host/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement Testing/host/requirements.txt
	touch .venv/panel

panel: .venv/panel
	PYTHONPATH=Testing $(BIN)/python -m host $(FILES)

screenshots: .venv/panel
	QT_QPA_PLATFORM=offscreen $(BIN)/python Testing/panel/screenshots.py Docs/panel

bench: .venv/ready
	$(BIN)/python Testing/benchmark.py --out bench.json

picture: demo
	$(BROWSER) --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1240,2000 \
		--screenshot="$(CURDIR)/Docs/report.png" "file://$(CURDIR)/demo/spoilt/report.html"

wheel: .venv/ready
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf .venv build dist demo bench.json RVQCSegment/*.egg-info *.egg-info .pytest_cache .ruff_cache .hypothesis
