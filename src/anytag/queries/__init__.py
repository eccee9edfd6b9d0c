"""From what users ask to scores: requests.py -> build.py -> score.py, over bank.py."""
