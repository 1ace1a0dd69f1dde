"""Suites: many runs under one protocol, their statistics, and the report that is made of them."""
