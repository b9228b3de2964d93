"""The raw DSB2018 set, one mask file per nucleus: reading, downloading, synthesizing and preparing it."""
