"""The default face model: ICT-FaceKit geometry and an albedo basis learned from the London photos, by one command."""
