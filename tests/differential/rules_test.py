"""The rules for checkpoints without a template, over the complete key sets of model types as transformers builds them: how
often they say that a whole checkpoint lacks keys, and how often they name a single key that was taken away."""

import json
import os
import random
import struct
import subprocess
import tempfile
import pathlib
import shutil
import unittest

import peers  # noqa: I001 (sets the environment before the packages are imported)
import torch
import transformers
from keyload.manifest import describe
from transformers.models.auto import modeling_auto

# Published types of many kinds, chosen before anything was measured; at the sizes of their default configurations.
MODEL_TYPES = """albert bart beit bert big_bird blenderbot bloom camembert clip codegen cohere convbert convnext
    data2vec-text deberta-v2 deit distilbert electra ernie4_5 falcon falcon_mamba fnet gemma gemma2 gemma3_text glm glm4 gpt2
    gpt_bigcode gpt_neo gpt_neox gptj granite granitemoe hubert levit llama longformer mamba mamba2 marian mbart
    mobilebert modernbert mpt mt5 olmo2 opt phi phi3 pegasus qwen2 qwen3_moe recurrent_gemma rembert roberta
    roformer segformer siglip stablelm starcoder2 swin t5 vit wav2vec2 whisper xglm xlm-roberta xlnet zamba2""".split()
AUTO_CLASSES = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION", "CTC", "SPEECH_SEQ_2_SEQ",
                "SEQUENCE_CLASSIFICATION")
REMOVALS = 20  # of each type
MOST_FALSE_ALARMS = 0.02
FEWEST_NAMED = 0.90


def model_class(model_type):
    for auto in AUTO_CLASSES:
        names = getattr(modeling_auto, f"MODEL_FOR_{auto}_MAPPING_NAMES").get(model_type)
        if names:
            return getattr(transformers, names if isinstance(names, str) else names[0])
    return getattr(transformers, modeling_auto.MODEL_MAPPING_NAMES[model_type])


def stored_keys(model_type):
    """{key: shape} of a checkpoint of the type, as save_pretrained writes it, and its config.json."""
    kind = model_class(model_type)
    config = kind.config_class()
    config.architectures = [kind.__name__]
    with torch.device("meta"):
        model = kind(config)
    manifest = describe(model, torch.float32, as_stored=True)
    tied = {target for group in manifest["tiedGroups"] for target in group["targets"]}
    keys = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in manifest["tensors"]
            if tensor["kind"] != "KIND_NON_PERSISTENT_BUFFER" and tensor["name"] not in tied}
    return keys, config.to_json_string()


def write(directory, keys, config):
    """A sparse file: headers are all that is read."""
    header, end = {}, 0
    for name, shape in keys.items():
        size = 1
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    directory.mkdir()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(config)


def check(directories):
    """The reports of one run of the gate, without templates."""
    command = [peers.daemon.BIN_DIR / "keyload", "--json", "check", *directories, "--expected", "checkpoint"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    assert result.returncode == 0, result
    return json.loads(result.stdout)["checks"]


def names_it(report, key, shape):
    """A finding names the key, or a module that it is in; or says of a matrix of the vocabulary that one lacks."""
    for finding in report["findings"]:
        if any(key == name or key.startswith(name + ".") for name in finding["names"]):
            return True
        if finding["rule"] == "vocabulary" and len(shape) == 2:
            return True
    return False


class RulesTest(unittest.TestCase):
    def test_false_alarms_and_single_removals(self):
        work = pathlib.Path(tempfile.mkdtemp(prefix="keyload-rules-"))
        self.addCleanup(shutil.rmtree, work)
        chosen = random.Random(int(os.environ.get("KEYLOAD_SEED", "16")))
        alarms, named, unnamed = [], 0, []
        for model_type in MODEL_TYPES:
            keys, config = stored_keys(model_type)
            removed = chosen.sample(sorted(keys), min(REMOVALS, len(keys)))
            directories = [work / "whole", *(work / str(i) for i in range(len(removed)))]
            write(directories[0], keys, config)
            for directory, key in zip(directories[1:], removed):
                write(directory, {name: shape for name, shape in keys.items() if name != key}, config)
            whole, *spoiled = check(directories)
            if whole["findings"]:
                alarms.append((model_type, [finding["message"] for finding in whole["findings"]]))
            for report, key in zip(spoiled, removed):
                if names_it(report, key, keys[key]):
                    named += 1
                else:
                    unnamed.append(f"{model_type}: {key}")
            for directory in directories:
                shutil.rmtree(directory)
        removals = named + len(unnamed)
        print(f"\nrules: {len(MODEL_TYPES)} model types, {len(alarms)} false alarms; of {removals} single removals {named} "
              f"named ({100 * named / removals:.1f} %)")
        print("\n".join(f"  false: {model_type}: {messages}" for model_type, messages in alarms))
        print("\n".join(f"  not named: {name}" for name in unnamed))
        self.assertGreaterEqual(len(MODEL_TYPES), 60)
        self.assertLessEqual(len(alarms), MOST_FALSE_ALARMS * len(MODEL_TYPES))
        self.assertGreaterEqual(named, FEWEST_NAMED * removals)


if __name__ == "__main__":
    unittest.main()
