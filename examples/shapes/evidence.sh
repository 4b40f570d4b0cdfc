#!/bin/sh
# One, two and three scales of about equal size, steps and batches on the same latents: trains all three, judges them, and prints
# their tables. Run it after train.sh, from the same place, with the same variables; STEPS is 1000 if it is not given.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
imagebart=${IMAGEBART:-imagebart}
steps=${STEPS:-1000}
out=out/shapes

run() {
    chain=$1
    pipeline=$2
    "$imagebart" --seed 0 train "$pipeline" --set train.steps="$steps" --set train.to=$out/"$chain"/train \
        --set chain.model=$out/"$chain"/model --set output.url=$out/"$chain"
    "$imagebart" --seed 0 demo-eval $out/"$chain"/model --to $out/"$chain"/evaluation --count "${COUNT:-200}" \
        --guidance 1.5
}

run one-scale "$here/one-scale.toml"
run two-scales "$here/two-scales.toml"
run three-scales "$here/../../pipelines/shapes.toml"
for chain in one-scale two-scales three-scales; do
    printf '\n### %s\n\n' $chain
    cat $out/$chain/evaluation/evaluation.md
done
