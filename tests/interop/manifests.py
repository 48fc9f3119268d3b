"""Kubernetes manifests against the schemas of a Kubernetes release; kinds of others are told, not
checked."""

import sys

import kubernetes_validate
import yaml

kinds = []
for manifest in yaml.safe_load_all(open(sys.argv[1])):
    kinds.append(manifest["kind"])
    if manifest["apiVersion"].split("/")[0].endswith("coreos.com"):
        continue
    kubernetes_validate.validate(manifest, "1.31", strict=True)
print(" ".join(kinds))
