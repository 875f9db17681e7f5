"""Device maps against accelerate's infer_auto_device_map and get_balanced_memory, over random module trees."""

import logging
import os
import random
import unittest

import peers  # noqa: I001 (sets the environment before the packages are imported)
import tally
import trees
from keyload.manifest import contents

AGREED = 300
TRIES = 1500


def keyload_answer(case):
    """keyload's answer, from `keyload --json plan` of a directory without weights."""
    options = ["--device-map", case.policy, "--allow-no-weights",
               "--max-memory", ",".join(f"{device}={limit}" for device, limit in case.limits.items())]
    if case.no_split:
        options += ["--no-split", ",".join(case.no_split)]
    options += ["--offload-buffers"] * case.offload_buffers + ["--fallback-allocation"] * case.fallback
    result = peers.plan(peers.new_directory(), trees.manifest(case.model), *options)
    if result.code != 0:
        raise AssertionError(result)
    report = result.json
    device_map = {module: device if device in ("cpu", "disk") else int(device.removeprefix("cuda:"))
                  for module, device in report["deviceMap"].items()}
    warns = any("the buffers of offloaded modules" in warning for warning in report["warnings"])
    names = [name for name, _, _ in contents.named_tensors(case.model)]
    return trees.Answer(device_map, warns, [name for name in names if trees.device_of(device_map, name) is None],
                        report["warnings"])


class PlacementTest(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        logging.getLogger("accelerate").setLevel(logging.CRITICAL)

    def check_covered(self, case, ours):
        """What holds of every map: a device for each tensor, and one for a tied group."""
        self.assertEqual(ours.uncovered, [])
        for group in contents.tied_groups_of(case.model):
            devices = {trees.device_of(ours.device_map, name) for name in (group["source"], *group["targets"])}
            self.assertEqual(len(devices), 1, group)

    def check_carried_buffers(self, case, ours, uncovered):
        """A direct buffer of a split module is where the module's first direct parameter is."""
        for name in uncovered:
            parent = name.rpartition(".")[0]
            carrier = next(iter(case.model.get_submodule(parent)._parameters), None)
            if carrier is not None:
                self.assertEqual(trees.device_of(ours.device_map, name),
                                 trees.device_of(ours.device_map, f"{parent}.{carrier}"), name)

    def tied_apart(self, case, device_map):
        return [name for group in contents.tied_groups_of(case.model)
                for name in (group["source"], *group["targets"])
                if len({trees.device_of(device_map, member) for member in (group["source"], *group["targets"])}) > 1]

    def compare(self, case):
        """True where both answers are the same; False where keyload differs as docs/semantics.md says."""
        ours = keyload_answer(case)
        self.check_covered(case, ours)
        biggest = trees.biggest_no_split(case) if case.policy != "sequential" else None
        for tied in trees.tied_orders(case.model):
            try:
                theirs = trees.accelerate_answer(case, biggest, tied)
            except (IndexError, trees.Hang):  # a partner that is placed, or alone; a fallback that is tried for ever
                return False
            if (ours.device_map, ours.warns) == (theirs.device_map, theirs.warns) and not theirs.uncovered:
                return biggest is None
            if self.differs_by_design(case, ours, theirs):
                return False
        self.assertEqual((ours.device_map, ours.warns), (theirs.device_map, theirs.warns))

    def differs_by_design(self, case, ours, theirs):
        if theirs.uncovered:
            self.check_carried_buffers(case, ours, theirs.uncovered)
            return True
        apart = self.tied_apart(case, theirs.device_map)
        return bool(apart) and all(
            trees.device_of(ours.device_map, name) == trees.device_of(theirs.device_map, name)
            for name, _, _ in contents.named_tensors(case.model) if name not in apart)

    def test_random_trees(self):
        seed = int(os.environ.get("KEYLOAD_SEED") or random.SystemRandom().randrange(1 << 32))
        print(f"random trees from KEYLOAD_SEED={seed}", flush=True)
        for number in range(TRIES):
            case = trees.random_case(seed + number)
            with self.subTest(f"KEYLOAD_SEED={seed + number}", policy=case.policy, limits=case.limits):
                if self.compare(case):
                    tally.trees += 1
                else:
                    tally.by_design += 1
            if tally.trees == AGREED:
                break
        self.assertEqual(tally.trees, AGREED)


if __name__ == "__main__":
    unittest.main()
