"""The leaderboard of a store: static pages that say who wins, how sure, at what cost, against what.

All statistics are computed here, by `metrics.statistics`, for the default filter. The page's script
draws them; for other filters it shows means and counts, and says so.
"""
