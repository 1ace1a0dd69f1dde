"""`irpo export` and `irpo push`: a run as a folder that other libraries load, and that ranks as the run does."""
