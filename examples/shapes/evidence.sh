#!/bin/sh
# One, two and three scales of about equal size, steps and batches on the same latents: trains what train.sh has not trained,
# judges all three, and prints their tables. Run it after train.sh, from the same place, with the same variables.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
imagebart=${IMAGEBART:-imagebart}
steps=${STEPS:+--set train.steps=$STEPS}
out=out/shapes

for chain in one-scale two-scales; do
    # The settings are one word or none.
    # shellcheck disable=SC2086
    "$imagebart" --seed 0 train "$here/$chain.toml" $steps
    "$imagebart" --seed 0 demo-eval $out/$chain/model --to $out/$chain/evaluation --count "${COUNT:-200}"
done
"$imagebart" --seed 0 demo-eval $out/model --to $out/three-scales/evaluation --count "${COUNT:-200}"
for chain in one-scale two-scales three-scales; do
    printf '\n### %s\n\n' $chain
    cat $out/$chain/evaluation/evaluation.md
done
