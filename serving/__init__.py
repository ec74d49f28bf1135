"""What serves pushed models; knows neither TFX nor the trainer."""
