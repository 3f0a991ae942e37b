"""Results for others: a bundle of a store that anyone can check, and victims beside it."""
