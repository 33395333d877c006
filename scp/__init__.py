"""The DICOM listener: association policy, durable receipt, study completeness."""
