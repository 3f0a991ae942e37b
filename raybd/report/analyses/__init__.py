"""Pictures of analyses: each tool's file draws what its table says. Nothing is computed anew."""
