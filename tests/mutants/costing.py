"""Faults in what a plan says of its time, and in the benchmark of a GPU."""

from tests.mutants.fault import Fault

COSTS = "raybd/plan/costs.py"
ROWS = "benchmarks/gpu/rows.py"
OF_COSTS = ("tests/plan/test_costs.py",)
OF_ROWS = ("tests/test_benchmark_gpu.py", "-k", "row or budget")

FAULTS = (
    Fault(
        "cost-without-epochs",
        COSTS,
        "return float(images * (1 if self.stage in ONE_PASS else self.epochs))",
        "return float(images)",
        "a training of twice the epochs takes no longer",
        OF_COSTS,
    ),
    Fault(
        "cost-scaled-backwards",
        COSTS,
        "return work.passes / other.passes * paces",
        "return other.passes / work.passes * paces",
        "a larger data set takes less",
        OF_COSTS,
    ),
    Fault(
        "cost-of-any-network",
        COSTS,
        "paces = self._pace(work.network) / self._pace(other.network)",
        "paces = 1.0",
        "a ResNet takes as long as a small network",
        OF_COSTS,
    ),
    Fault(
        "cost-of-one-stage-each",
        COSTS,
        "            gpu_seconds += count * on_gpu\n",
        "            gpu_seconds += on_gpu\n",
        "seeds take no GPU hours",
        OF_COSTS,
    ),
    Fault(
        "cost-by-the-slowest",
        COSTS,
        "    seconds = median(took.seconds * times(took) for took in alike)\n",
        "    seconds = max(took.seconds * times(took) for took in alike)\n",
        "one slow run changes the estimate",
        OF_COSTS,
    ),
    Fault(
        "row-takes-the-others",
        ROWS,
        "    except Exception as error:\n",
        "    except ImportError as error:\n",
        "one row that fails ends the benchmark",
        OF_ROWS,
    ),
    Fault(
        "row-beyond-the-budget",
        ROWS,
        "    signal.setitimer(signal.ITIMER_REAL, seconds)\n",
        "    signal.setitimer(signal.ITIMER_REAL, seconds + 20)\n",
        "a row goes on beyond the budget",
        OF_ROWS,
    ),
)
