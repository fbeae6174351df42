"""From labelled feedback to a registered challenger: `python -m training.retrain`.

Payments and labels come from the features service's own tables, features from its point-in-time
reader, the model from the champion's recipe; what comes out is a verified version and a report.
"""
