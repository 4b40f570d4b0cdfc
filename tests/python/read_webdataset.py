"""Prints key, caption and bytes of the image of every sample in a folder's shards, as the webdataset library reads them."""

import glob
import json
import sys

import webdataset

shards = sorted(glob.glob(sys.argv[1] + "/*.tar"))
found = []
for sample in webdataset.WebDataset(shards, shardshuffle=False):
    facts = json.loads(sample["json"])
    assert facts["key"] == sample["__key__"], facts
    found.append([sample["__key__"], sample["txt"].decode(), len(sample["png"])])
print(json.dumps(found))
