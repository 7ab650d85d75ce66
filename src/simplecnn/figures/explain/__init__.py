"""Figures of scripts/explain.py: functions from arrays to matplotlib Figures."""
