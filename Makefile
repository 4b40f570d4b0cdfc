# Each of these does all the set-up it needs: on a machine with Rust, a C++ compiler and Python 3 with pip,
# `make demo` alone or `make test` alone is enough.

TORCH_VERSION := 2.11.0
LOCAL_TORCH := $(CURDIR)/.libtorch/site/torch

# A LIBTORCH of the environment or of the command line is used as it is, and nothing is downloaded.
ifeq ($(origin LIBTORCH),undefined)
export LIBTORCH := $(LOCAL_TORCH)
SETUP := .libtorch/ready-$(TORCH_VERSION)
else
export LIBTORCH
SETUP :=
endif

.PHONY: setup build demo demo-train test parity lint bench fuzz clean

setup: $(SETUP)

# Installed aside and moved into place, so that an interrupted download is never taken for a finished one.
.libtorch/ready-$(TORCH_VERSION):
	rm -rf .libtorch && mkdir -p .libtorch/download
	python3 -m pip install --quiet --no-cache-dir --no-deps --no-compile --target .libtorch/download \
		torch==$(TORCH_VERSION) nvidia-cuda-runtime==13.0.88 nvidia-cuda-cupti==13.0.85
	mv .libtorch/download .libtorch/site
	touch $@

build: $(SETUP)
	cargo build --release --locked

demo: build
	target/release/imagebart demo --out out/demo

# From nothing to the trained demo, about an hour or two on two cores; goes on where it stopped. STEPS=50 for a try.
demo-train: build
	IMAGEBART=$(CURDIR)/target/release/imagebart STEPS=$(STEPS) examples/shapes/train.sh

test: $(SETUP)
	cargo test --release --locked

parity: $(SETUP)
	cargo test --release --locked --test parity -- --nocapture

lint: $(SETUP)
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps

bench: $(SETUP)
	cargo bench --locked

# Every target that reads bytes from outside, RUNS executions each. Coverage instrumentation needs flags that stable rustc
# keeps behind RUSTC_BOOTSTRAP; limits on memory are the targets' own (tests/fuzz/support.rs).
TARGETS := tar tfrecord lmdb zip mds image pipeline
RUNS := 1000000
FUZZ := target/fuzz

fuzz: $(SETUP)
	cargo fuzz --version || cargo install --locked cargo-fuzz
	python3 -m venv $(FUZZ)/python
	$(FUZZ)/python/bin/pip install --quiet --no-cache-dir -r tests/fuzz/requirements.txt
	$(FUZZ)/python/bin/python tests/fuzz/seeds.py $(FUZZ)/seeds
	for target in $(TARGETS); do \
		mkdir -p $(FUZZ)/corpus/$$target && \
		LD_LIBRARY_PATH=$(LIBTORCH)/lib RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir $(FUZZ)/build \
			--sanitizer none --release $$target $(FUZZ)/corpus/$$target $(FUZZ)/seeds/$$target \
			-- -runs=$(RUNS) -max_len=65536 -timeout=20 || exit 1; \
	done

clean:
	cargo clean
	rm -rf out
