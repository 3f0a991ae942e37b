"""The results of a store as one static HTML page.

Tables, plots and galleries are drawn from what is stored; no score is computed here.
"""
