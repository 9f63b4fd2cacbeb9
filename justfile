# Shortcuts; cargo does the work. `just` alone lists the recipes.

_default:
    @just --list

# Build the release binary
build:
    cargo build --locked --release

# Run all tests, as the README does; ARGS go to cargo, for example `just test --test it webhooks::`
test *ARGS:
    cargo test --locked {{ ARGS }}

# Check formatting and lints
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Run everything that a change must pass
ci:
    .ci/run

# Build the documentation; a broken link is an error
doc *ARGS:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps {{ ARGS }}

# Run a benchmark: relay, store or parts; for example `just bench relay --postfix`
bench NAME *ARGS:
    cargo bench --locked --bench {{ NAME }} -- {{ ARGS }}

# Check licences, duplicates, sources and advisories of dependencies
deny *ARGS:
    cargo deny --locked check {{ ARGS }}

# Report on the language of the code; `just language --list` prints the places
language *ARGS:
    tools/language.py {{ ARGS }}

# Find misspelled words
typos:
    typos

# Fuzz a target for a minute: command, data, session or acceptance
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{ TARGET }} -- -max_total_time={{ SECONDS }}

# Build the Debian package
package:
    systemd/package
