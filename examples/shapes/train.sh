#!/bin/sh
# Trains the shapes' tokenizer and chain from nothing, and judges them: the commands of README.md, one after the other.
#
# Stop it at any time and run it again: what is done is passed over, and a training goes on from its last checkpoint. Run it from
# where out/shapes is to be. Variables: IMAGEBART (the program), STEPS (fewer of them in every training, for a try), TRAINING,
# VALIDATION and PER_SHARD (pictures; the pipeline reads sixteen shards to train on), COUNT (captions that are judged).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pipeline=$here/../../pipelines/shapes.toml
imagebart=${IMAGEBART:-imagebart}
out=out/shapes

run() {
    echo "\$ imagebart $*"
    "$imagebart" --seed 0 "$@"
}

# A try quantizes too, after a quarter of its steps; and completes pictures with one candidate.
tokenizer_steps=${STEPS:+--set train_tokenizer.steps=$STEPS --set train_tokenizer.quantize_after=$((STEPS / 4))}
steps=${STEPS:+--set train.steps=$STEPS}
completions="--candidates 1,1,64 --draws 4"
if [ -n "${STEPS:-}" ]; then completions=; fi

run demo-data --out $out/data --training "${TRAINING:-32000}" --validation "${VALIDATION:-1000}" --test 16 \
    --per-shard "${PER_SHARD:-2000}"
# The settings are words or nothing.
# shellcheck disable=SC2086
run train-tokenizer "$pipeline" $tokenizer_steps
run encode "$pipeline"
run encode "$pipeline" --set dataset.url=$out/data/validation/ --set output.url=$out/validation
if [ ! -f $out/text-tokenizer.json ]; then
    run train-text-tokenizer $out/training --to $out/text-tokenizer.json --vocabulary 331
fi
# shellcheck disable=SC2086
run train "$pipeline" $steps
run half $out/model --to $out/shipped --overwrite
# shellcheck disable=SC2086
run demo-eval $out/shipped --to $out/shipped-evaluation --count "${COUNT:-200}" --guidance 1.5 --repeats 1,1,1 \
    $completions
