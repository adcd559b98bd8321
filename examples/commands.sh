#!/usr/bin/env bash
# The stages of a recipe as single commands, from files to files. Numbers are small, so that it takes a minute;
# leave out --epochs, --samples and --budget-evaluations for the defaults.
set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH" # where `make demo` installs it
mkdir -p "${1:-runs/commands}"
cd "${1:-runs/commands}"

whorl data clusters --element Pt --atoms 10 --count 100 --calculator emt --output clusters.safetensors
whorl encode clusters.safetensors --preset fung2022 --output features.safetensors
whorl data sample features.safetensors --size 80 --output rows.json
whorl train surrogate features.safetensors --property formation_energy --epochs 200 --output surrogate.safetensors
whorl train generator features.safetensors --property formation_energy --rows rows.json --epochs 500 \
    --output generator.safetensors
whorl generate generator.safetensors --features features.safetensors --property formation_energy \
    --target 1.2 --target 2.0 --samples 100 --output generated.safetensors
whorl invert generated.safetensors --composition Pt10 --features features.safetensors --rows rows.json \
    --samples 5 --budget-evaluations 500 --reference 5 --output atoms.safetensors
whorl evaluate generated.safetensors --features features.safetensors --property formation_energy \
    --rows rows.json --surrogate surrogate.safetensors --structures atoms.safetensors --dataset clusters.safetensors --calculator emt --output results
whorl data show clusters.safetensors

# Crystals as images: prototypes, tensors, a generator conditioned on elements too, crystals with space groups.
whorl data crystals --prototypes --count 60 --max-atoms 6 --output prototypes.safetensors
whorl show prototypes.safetensors --crystens --index 0 --output crystens.png
whorl encode prototypes.safetensors --kind crystens --option max_atoms=6 --output tensors.safetensors
whorl decode tensors.safetensors --output decoded.safetensors
whorl run "$OLDPWD/recipes/crystens_small.yaml" --output crystens_small --set data.crystals.count=60 \
    --set data.crystals.max_atoms=6 --set data.crystals.directory=prototypes-chunks \
    --set representation.max_atoms=6 --set generator.epochs=2 --set generator.channels=8 \
    --set generator.steps=10 --set generate.samples=4 --set surrogate.epochs=20 || [ $? -eq 3 ]
