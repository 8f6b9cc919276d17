"""Mutants of right trainers, made by cosmic-ray, before the laws of trainers: which does the kit kill?"""
