"""Is my data set poisoned, and is my model backdoored? From a path to a verdict, without truth.

The suspects are trained on, scored by several detectors and compared with trusted images that took
part in everything (decoys.py). The same is done with copies of the data set in which known triggers
were planted: that tells what would have been found (power). Nothing here knows what is poison.
"""
