# make check: what every commit passes. make ci: the same with peers from other languages.
.PHONY: check fmt lint test bench sbom ci

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

# What is built into the binary, for whoever must know (CycloneDX): target/regimed.cdx.json. Needs cargo-cyclonedx.
sbom:
	cargo cyclonedx --format json --all-features --target all --override-filename regimed.cdx
	mkdir -p target && mv regimed.cdx.json target/

ci:
	.ci/run
