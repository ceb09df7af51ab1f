//! Tests of the fleet as a whole: journeys, conformance, chaos.
