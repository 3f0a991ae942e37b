"""Code that is not about backdoors: convolutions, downloads."""
