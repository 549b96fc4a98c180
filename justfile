# The tools of the virtual environment that scripts/bootstrap makes, or else those on PATH.
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# List the recipes
default:
    @just --list

# Formatting, lint, types, and the arrows between the rooms
lint:
    ruff check
    ruff format --check
    mypy
    lint-imports

# Lint and all three tiers of the tests (root)
test:
    @scripts/test

# Tests that need neither root nor a network
test-pure *ARGS:
    python -m pytest {{ ARGS }}

# Tests that make tunnels with wireguard-go (root)
test-userspace *ARGS:
    python -m pytest --tier userspace {{ ARGS }}

# Tests that make tunnels with Debian's kernel, in a virtual machine (root)
test-kernel *ARGS:
    python scripts/kernel-tier {{ ARGS }}

# A mesh of three namespaces: up, ping, list, down (root)
demo:
    @scripts/demo

# What rait takes beside what the kernel takes: tables, and bench/out/bench.json (root, 15 minutes)
bench *ARGS:
    @python bench/run.py {{ ARGS }}

# Small changes of the code that the pure tests are to notice (seconds each, minutes if they do not)
mutate *ARGS:
    @python scripts/mutate {{ ARGS }}

# The wheel, in dist/
build:
    rm -rf dist
    python -m pip wheel --quiet --no-deps --wheel-dir dist .
    @ls dist
