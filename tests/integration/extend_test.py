"""`--if-exists extend`: more keys of a checkpoint for a model that is there."""

import unittest

import layers


class ExtendTest(layers.LayersTest):
    def load(self, *more):
        return ("load", "m", "--from", self.source, *self.placement, *more)

    def entries(self, keys):
        return [key for key in self.succeed("keys", "m")["keys"] if key["key"] in keys]

    def test_new_keys_come_and_placed_ones_stay(self):
        first = self.succeed(*self.load("--include", "layers.0.*"))
        placed = self.entries(self.layer(0))
        self.assertEqual(len(placed), 2)
        reports = []
        moved = self.read_by(lambda: reports.append(
            self.succeed(*self.load("--include", "layers.1.*", "--if-exists", "extend"))))
        self.assertLessEqual(moved, 1.05 * 2 * layers.TENSOR_BYTES + layers.SLACK_BYTES)
        self.assertEqual(reports[0]["outcome"], "COMPLETE")
        self.assertGreater(reports[0]["generation"], first["generation"])
        self.assertEqual(reports[0]["bytes"]["selected"], 2 * layers.TENSOR_BYTES)
        self.assertEqual(reports[0]["keys"]["loaded"], 4)
        self.assertEqual(self.keys("resident"), self.layer(0, 1))
        self.assertEqual(self.entries(self.layer(0)), placed)
        self.assert_reads_what_is_stored(self.layer(0, 1))
        self.succeed("unload", "m")
        self.assert_memory(self.memory)

    def test_keys_that_are_there_are_not_read_again(self):
        first = self.succeed(*self.load("--include", "layers.0.*"))
        again = self.load("--include", "layers.0.*", "--if-exists", "extend")
        reports = []
        self.assertLessEqual(self.read_by(lambda: reports.append(self.succeed(*again))), layers.SLACK_BYTES)
        self.assertEqual(reports[0]["bytes"]["read"], 0)
        self.assertEqual(reports[0]["generation"], first["generation"])
        self.assertNotEqual(reports[0]["load"], first["load"])

    def test_another_device_map_is_refused(self):
        self.succeed(*self.load("--include", "layers.0.*"))
        memory = self.daemon.device_memory()
        self.refused(6, "MODEL_EXISTS", *self.load("--device-map", "cuda:1")[:4], "--device-map", "cuda:1",
                     "--include", "layers.1.*", "--if-exists", "extend")
        self.assert_memory(memory)
        self.assertEqual(self.keys("resident"), self.layer(0))

    def test_a_lazy_extension_reads_nothing(self):
        self.succeed(*self.load("--include", "layers.0.*"))
        extend = self.load("--include", "layers.1.*", "--if-exists", "extend", "--lazy")
        self.assertLessEqual(self.read_by(lambda: self.succeed(*extend)), layers.SLACK_BYTES)
        self.assertEqual(self.keys("resident"), self.layer(0))
        self.assertEqual(self.keys("lazy"), self.layer(1))
        self.succeed("materialize", "m", "--include", "layers.1.*")
        self.assert_reads_what_is_stored(self.layer(0, 1))

    def test_an_extension_of_nothing_is_a_load(self):
        report = self.succeed(*self.load("--include", "layers.0.*", "--if-exists", "extend"))
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("COMPLETE", 2))


if __name__ == "__main__":
    unittest.main()
