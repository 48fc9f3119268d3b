# make check: what every commit passes. make ci: the same with peers from other languages.
.PHONY: check fmt lint test bench ci

check: fmt lint test

fmt:
	cargo fmt --check

lint:
	cargo clippy --release --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not here: licences and advisories unchecked"; fi

test:
	cargo test --release

bench:
	cargo bench --bench filter_bank
	cargo bench --bench latency

ci:
	.ci/run
