"""From requests to scores: requests.py -> build.py -> score.py, with the stored queries in bank.py."""
