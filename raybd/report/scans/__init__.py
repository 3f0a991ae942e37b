"""The report of a scan of a user's own data set or model: verdict, power, suspects, pictures."""
