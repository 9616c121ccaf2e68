#!/bin/sh
# Exits with 0 if a process of a job of exec_start exists, else with 1.
grep -qsz '^PIXELS_EXEC_ID=job-' /proc/[0-9]*/environ
