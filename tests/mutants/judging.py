"""Faults in what methods are given, and in how their verdicts are compared with the truth."""

from tests.mutants.fault import Fault

SCORE = "raybd/stages/score.py"
JUDGING = "raybd/cells/judging.py"
POOLS = "raybd/cells/pools.py"
DATA = "raybd/types/data.py"
SEES = "tests/contracts/test_what_methods_see.py"

FAULTS = (
    Fault(
        "stream-not-shuffled",
        SCORE,
        "        order = torch.randperm(len(pool.suspects), generator=rng)\n"
        "        trusted = trusted_images(self.method, self.seed, dataset, poisoned)\n"
        "        # Before",
        "        order = torch.arange(len(pool.suspects))\n"
        "        trusted = trusted_images(self.method, self.seed, dataset, poisoned)\n"
        "        # Before",
        "the test stream is not shuffled: triggered inputs come last",
        (SEES,),
    ),
    Fault(
        "training-set-not-shuffled",
        SCORE,
        "        order = torch.randperm(len(pool.suspects), generator=rng)\n"
        "        trusted = trusted_images(self.method, self.seed, dataset, poisoned)\n"
        "        pool",
        "        order = torch.arange(len(pool.suspects))\n"
        "        trusted = trusted_images(self.method, self.seed, dataset, poisoned)\n"
        "        pool",
        "the training set is not shuffled before a detector sees it",
        (SEES,),
    ),
    Fault(
        "scanner-trusts-test-images",
        "raybd/stages/scan.py",
        "scanner.scan(victim, dataset.clean,",
        "scanner.scan(victim, dataset.test,",
        "scanners are given the test images as trusted ones",
        (SEES,),
    ),
    Fault(
        "repair-trusts-test-images",
        "raybd/stages/repair.py",
        "            dataset.clean,\n",
        "            dataset.test,\n",
        "repairs are given the test images as trusted ones",
        (SEES,),
    ),
    Fault(
        "defense-trusts-test-images",
        "raybd/stages/defended.py",
        "            dataset.clean,\n",
        "            dataset.test,\n",
        "training defenses are given the test images as trusted ones",
        (SEES,),
    ),
    Fault(
        "detector-trusts-test-images",
        POOLS,
        "    if asked is None:\n        return dataset.clean\n",
        "    if asked is None:\n        return dataset.test\n",
        "detectors are given the test images as trusted ones",
        (SEES,),
    ),
    Fault(
        "detector-trusts-training-images",
        POOLS,
        "    if asked is None:\n        return dataset.clean\n",
        "    if asked is None:\n        return dataset.train.select(torch.arange(40))\n",
        "detectors are given clean training images as trusted ones",
        (SEES,),
    ),
    Fault(
        "defense-sees-the-clean-set",
        "raybd/stages/defended.py",
        "            pool.suspects,\n",
        "            dataset.train,\n",
        "training defenses are given the training set without poison",
        (SEES,),
    ),
    Fault(
        "repair-sees-the-clean-set",
        "raybd/stages/repair.py",
        "self.victim.training_split(poisoned, dataset),",
        "dataset.train,",
        "repairs are given the training set without poison",
        (SEES,),
    ),
    Fault(
        "stream-has-true-labels",
        POOLS,
        "return Pool(Split(x_NCHW, predicted_N), index_N, test.y_N[index_N], role_N)",
        "return Pool(Split(x_NCHW, test.y_N[index_N]), index_N, test.y_N[index_N], role_N)",
        "the stream carries true labels",
        (SEES,),
    ),
    Fault(
        "stream-of-the-target-class",
        POOLS,
        "counted = torch.nonzero(poisoned.counted(test)).flatten()",
        "counted = torch.nonzero(~poisoned.counted(test)).flatten()",
        "only images of the target class wear the trigger in the stream",
        (SEES,),
    ),
    Fault(
        "training-set-has-true-labels",
        DATA,
        "        y_N[self.index_M] = self.y_M\n",
        "",
        "poison keeps its true label",
        ("tests/cells/test_run.py::test_a_cell_runs_without_ray_and_its_row_says_everything",),
    ),
    Fault(
        "roles-of-the-stream-swapped",
        POOLS,
        "role_N[len(test) :] = POISON",
        "role_N[: len(test)] = POISON",
        "clean inputs count as poison, and triggered ones as clean",
        (SEES,),
    ),
    Fault(
        "roles-not-shuffled",
        POOLS,
        "            self.role_N[order],\n",
        "            self.role_N,\n",
        "the roles stay in the old order when a pool is shuffled",
        (SEES,),
    ),
    Fault(
        "rows-not-shuffled",
        POOLS,
        "            self.index_N[order],\n",
        "            self.index_N,\n",
        "the row numbers stay in the old order when a pool is shuffled",
        (SEES,),
    ),
    Fault(
        "features-of-other-images",
        DATA,
        "z_ND=None if self.z_ND is None else self.z_ND[rows]",
        "z_ND=self.z_ND",
        "embeddings stay in the old order when images are shuffled",
        (SEES,),
    ),
    Fault(
        "halfway-measures-come-back",
        "raybd/training/runtime.py",
        "    if runtime.report is not None and group.rank() == 0:\n        runtime.report(facts)\n",
        "    if runtime.report is not None and group.rank() == 0:\n        runtime.report(facts)\n"
        "    return facts\n",
        "a detector is told its own AUROC",
        (SEES,),
    ),
    Fault(
        "verdict-in-the-order-of-the-detector",
        JUDGING,
        "score_N = verdict.score_N.float().cpu()[back]",
        "score_N = verdict.score_N.float().cpu()",
        "scores are compared with the roles of other images",
        (SEES,),
    ),
    Fault(
        "threshold-of-another-image",
        JUDGING,
        "threshold_N = verdict.threshold_N.float().cpu().expand(len(score_N))[back]",
        "threshold_N = verdict.threshold_N.float().cpu().expand(len(score_N))",
        "a score is compared with the threshold of another image",
        ("tests/cells/test_judging.py",),
    ),
    Fault(
        "flagged-below",
        JUDGING,
        "flagged_N = score_N > threshold_N",
        "flagged_N = score_N < threshold_N",
        "what lies below the threshold is flagged",
        ("tests/stages/test_plant.py",),
    ),
    Fault(
        "canaries-count-as-poison",
        JUDGING,
        "own = torch.nonzero(role_N <= CROSS).flatten()",
        "own = torch.nonzero(role_N <= CROSS + 1).flatten()",
        "canaries stand in the tables",
        ("tests/stages/test_plant.py",),
    ),
    Fault(
        "outside-is-inside",
        JUDGING,
        "(touched_HW[None], grid)[0] == 0",
        "(touched_HW[None], grid)[0] > 0",
        "the AUROC outside of the trigger is that inside",
        ("tests/cells/test_judging.py",),
    ),
)
