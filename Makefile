# Two commands do everything on a machine that has nothing but Python 3.11 or later:
#   make demo    compress a trained network, from dense to a TensorRT-RTX engine, and print what each step cost
#   make test    build the wheel, install it, run the tests on it
# Each makes its own virtual environment. `make check` runs the linters and type checks of the gate.

# The first interpreter that runs and is new enough; a name on the path need not be one that works.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for one in python3 python3.13 python3.12 python3.11; do \
	$$one -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$one && break; done)
DEMO := .venv-demo
TEST := .venv-test
# What the tests are installed with; add torch and zoo to run those that export PyTorch modules.
EXTRAS ?= dev,tensorrt-rtx
# More for pip: a pinned build of something, say.
WITH ?=
TESTS ?= tests
PYTEST_OPTIONS ?= -n auto

.PHONY: demo test check bench clean

demo: $(DEMO)/done
	$(DEMO)/bin/python examples/fashion_mnist/demo.py --output demo-output

test: wheel
	$(TEST)/bin/python -m pytest $(PYTEST_OPTIONS) $(TESTS)

check: wheel
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	cd $(TEST) && bin/mypy --config-file ../pyproject.toml -p secateur

bench: wheel
	$(TEST)/bin/python benchmarks/ir.py

.PHONY: wheel
wheel: $(TEST)/done
	rm -rf build dist
	$(TEST)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(TEST)/bin/python -m pip install --quiet --no-deps --force-reinstall dist/secateur-*.whl

$(DEMO)/done: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; say PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --upgrade pip
	$(DEMO)/bin/python -m pip install --quiet -e '.[run]'
	$(DEMO)/bin/python -m pip install --quiet -e '.[tensorrt-rtx]' || \
		echo "TensorRT-RTX is not to be had for this platform: the demo goes on without an engine"
	touch $@

$(TEST)/done: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; say PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python -m pip install --quiet --upgrade pip
	$(TEST)/bin/python -m pip install --quiet $(WITH) '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf build dist demo-output $(DEMO) $(TEST) *.egg-info
