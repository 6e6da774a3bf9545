#!/bin/sh
# Make the folders of book/_assets/local again from npm packages. Needed only for a new version:
# the files are committed, so that neither building nor reading the book needs npm or a network.
set -eu
mathjax=3.2.2
manager=1.0.15
requirejs=2.3.4
cd "$(dirname "$0")/.."
target=book/_assets/local
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Unpack one npm package into a folder of its own.
fetch() {
    mkdir "$scratch/$1"
    (cd "$scratch/$1" && npm pack "$2" >/dev/null && tar xzf ./*.tgz)
}

fetch mathjax "mathjax@$mathjax"
from=$scratch/mathjax/package
rm -rf "$target/mathjax/output" "$target/mathjax/input"
mkdir -p "$target/mathjax/output/chtml/fonts" "$target/mathjax/input/tex"
cp "$from/es5/tex-mml-chtml.js" "$from/LICENSE" "$target/mathjax/"
cp -r "$from/es5/output/chtml/fonts/woff-v2" "$target/mathjax/output/chtml/fonts/"
cp -r "$from/es5/input/tex/extensions" "$target/mathjax/input/tex/"

fetch manager "@jupyter-widgets/html-manager@$manager"
fetch requirejs "requirejs@$requirejs"
mkdir -p "$target/widgets"
rm -f "$target/widgets/"*.woff2
cp "$scratch/manager/package/dist/embed-amd.js" "$scratch/manager/package/dist/"*.woff2 "$target/widgets/"
cp "$scratch/requirejs/package/require.js" "$target/widgets/"

find "$target" -type f -exec chmod 644 {} +
du -sh "$target"/*
