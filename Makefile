# make check: what every commit passes. make ci: the same with peers from other languages.
.PHONY: check fmt lint test bench sbom deb book ci

check: fmt lint test

fmt:
	cargo fmt --check

lint:
	cargo clippy --release --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; \
	else echo "cargo-deny is not here: licences and advisories unchecked"; fi

test:
	cargo test --release

bench:
	cargo bench --bench filter_bank
	cargo bench --bench latency

# What is built into the binary, for whoever must know (CycloneDX): target/regimed.cdx.json. Needs
# cargo-cyclonedx.
sbom:
	cargo cyclonedx --format json --all-features --target all --override-filename regimed.cdx
	mkdir -p target && mv regimed.cdx.json target/

# The Debian package: target/debian/regimed_*.deb. Needs cargo-deb.
deb:
	cargo build --release --locked
	mkdir -p target/completions
	target/release/regimed man --out target/man
	target/release/regimed completions bash > target/completions/regimed.bash
	target/release/regimed completions zsh > target/completions/_regimed
	target/release/regimed completions fish > target/completions/regimed.fish
	cargo deb --no-build

# The manual as pages: target/book. Needs mdbook.
book:
	mdbook build

ci:
	.ci/run
