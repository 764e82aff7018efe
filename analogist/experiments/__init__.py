"""Experiments: ablations over where SAC and CAM act, the published evaluation, both as resumable jobs with one tidy table."""
