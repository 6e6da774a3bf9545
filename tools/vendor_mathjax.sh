#!/bin/sh
# Make book/_assets/local/mathjax again from the npm package. Needed only for a new version:
# the files are committed, so that neither building nor reading the book needs npm or a network.
set -eu
version=3.2.2
cd "$(dirname "$0")/.."
target=book/_assets/local/mathjax
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

(cd "$scratch" && npm pack "mathjax@$version" >/dev/null && tar xzf "mathjax-$version.tgz")
from=$scratch/package/es5
rm -rf "$target/output" "$target/input"
mkdir -p "$target/output/chtml/fonts" "$target/input/tex"
cp "$from/tex-mml-chtml.js" "$target/"
cp "$scratch/package/LICENSE" "$target/"
cp -r "$from/output/chtml/fonts/woff-v2" "$target/output/chtml/fonts/"
cp -r "$from/input/tex/extensions" "$target/input/tex/"
find "$target" -type f -exec chmod 644 {} +
du -sh "$target"
