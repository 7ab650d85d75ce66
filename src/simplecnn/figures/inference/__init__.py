"""Figures of predict and evaluate: functions from arrays to matplotlib Figures."""
