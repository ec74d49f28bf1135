"""The TFX components that TFX lacks."""
