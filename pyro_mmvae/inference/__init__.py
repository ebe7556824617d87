"""Answers of a trained model about the items of a data set: latents, imputations, predictions and scores."""
