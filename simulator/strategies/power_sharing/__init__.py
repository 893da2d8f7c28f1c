"""Whose clocks yield when a feeder has too little power."""
