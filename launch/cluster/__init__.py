"""Runs on clusters: the job files of schedulers, and TF_CONFIG from their variables."""
