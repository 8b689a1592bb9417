"""Bulk image generation through EvoLink's krea-2-turbo."""
