//! How tokens are drawn at each scale, and what is refused.

use super::config::Condition;
use std::sync::Arc;

/// How one row's tokens are drawn at one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleSettings {
    /// Divides the logits; above 0. The released model's is 1.
    pub temperature: f32,
    /// Keeps the `k` likeliest codes and those as likely as the last of them; 1..=K.
    pub top_k: Option<u32>,
    /// Keeps the fewest likeliest codes whose probability reaches `p`, and those as likely as the last of them; above 0, at
    /// most 1. What it counts is left of `top_k`.
    pub top_p: Option<f32>,
    /// Classifier-free guidance g: logits are null + g (conditional - null). 1 is the conditional model itself; 0 or more.
    pub guidance: f32,
    /// Takes the likeliest code instead of drawing.
    pub greedy: bool,
}

impl Default for ScaleSettings {
    /// The model's own distribution.
    fn default() -> ScaleSettings {
        ScaleSettings { temperature: 1.0, top_k: None, top_p: None, guidance: 1.0, greedy: false }
    }
}

/// What is wrong with sampling settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    #[error("{key} = {value} at scale {scale}: {rule}")]
    Value { key: &'static str, value: String, scale: u32, rule: String },
    #[error("{key} lists {found} values; give one for all scales, or {scales}: from scale 1 to scale {scales}")]
    Length { key: &'static str, found: usize, scales: u32 },
    #[error(
        "guidance = {0} needs a null condition, which this chain has not: \
         condition.kind must be \"text\", or \"class\" with null = true"
    )]
    NoNull(f32),
}

impl ScaleSettings {
    /// Checks the values for `scale` of a chain with `codes` codes.
    ///
    /// # Errors
    /// The first value out of range, with its key and the rule.
    pub fn check(&self, scale: u32, codes: u32) -> Result<(), SettingsError> {
        let fault = |key, value: String, rule: &str| SettingsError::Value { key, value, scale, rule: rule.to_owned() };
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(fault(
                "temperature",
                self.temperature.to_string(),
                "it must be above 0; greedy takes the likeliest",
            ));
        }
        if let Some(k) = self.top_k.filter(|k| !(1..=codes).contains(k)) {
            return Err(fault("top_k", k.to_string(), &format!("it must be 1 to {codes}, the number of codes")));
        }
        if let Some(p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return Err(fault("top_p", p.to_string(), "it must be above 0 and at most 1"));
        }
        if !(self.guidance >= 0.0 && self.guidance.is_finite()) {
            return Err(fault("guidance", self.guidance.to_string(), "it must be 0 or more"));
        }
        Ok(())
    }

    /// Whether null logits are needed besides the conditional ones.
    pub fn is_guided(&self) -> bool {
        self.guidance != 1.0
    }
}

/// Settings as users write them: lists from scale 1 up, or one value for all scales, or nothing for the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettingsLists {
    pub temperature: Vec<f32>,
    pub top_k: Vec<u32>,
    pub top_p: Vec<f32>,
    pub guidance: Vec<f32>,
    pub greedy: bool,
}

impl SettingsLists {
    /// The settings of scales 1..=T (index t - 1), checked against the chain's codes and condition.
    ///
    /// # Errors
    /// A list of another length, a value out of range, guidance without a null condition.
    pub fn resolve(
        &self,
        scales: u32,
        codes: u32,
        condition: &Condition,
    ) -> Result<Arc<[ScaleSettings]>, SettingsError> {
        let default = ScaleSettings::default();
        let temperature = spread("temperature", &self.temperature, scales)?;
        let top_k = spread("top_k", &self.top_k, scales)?;
        let top_p = spread("top_p", &self.top_p, scales)?;
        let guidance = spread("guidance", &self.guidance, scales)?;
        let settings: Vec<ScaleSettings> = (0..scales as usize)
            .map(|index| ScaleSettings {
                temperature: temperature.get(index).copied().unwrap_or(default.temperature),
                top_k: top_k.get(index).copied(),
                top_p: top_p.get(index).copied(),
                guidance: guidance.get(index).copied().unwrap_or(default.guidance),
                greedy: self.greedy,
            })
            .collect();
        check(&settings, scales, codes, condition)?;
        Ok(settings.into())
    }
}

/// Checks the settings of scales 1..=T.
pub(super) fn check(
    settings: &[ScaleSettings],
    scales: u32,
    codes: u32,
    condition: &Condition,
) -> Result<(), SettingsError> {
    if settings.len() != scales as usize {
        return Err(SettingsError::Length { key: "settings", found: settings.len(), scales });
    }
    for (scale, settings) in (1..).zip(settings) {
        settings.check(scale, codes)?;
        if settings.is_guided() && !condition.has_null() {
            return Err(SettingsError::NoNull(settings.guidance));
        }
    }
    Ok(())
}

/// A list with a value for every scale; empty stays empty.
fn spread<T: Copy>(key: &'static str, values: &[T], scales: u32) -> Result<Vec<T>, SettingsError> {
    match values {
        [one] => Ok(vec![*one; scales as usize]),
        [] => Ok(Vec::new()),
        _ if values.len() == scales as usize => Ok(values.to_vec()),
        _ => Err(SettingsError::Length { key, found: values.len(), scales }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: Condition = Condition::Class { classes: 10, null: true };

    fn fault(lists: SettingsLists, condition: Condition) -> String {
        lists.resolve(3, 20, &condition).unwrap_err().to_string()
    }

    #[test]
    fn one_value_serves_all_scales_and_lists_count_from_scale_one() {
        let lists = SettingsLists { temperature: vec![0.5], top_k: vec![20, 7, 5], ..SettingsLists::default() };
        let settings = lists.resolve(3, 20, &Condition::None).unwrap();
        assert_eq!(settings.iter().map(|scale| scale.top_k).collect::<Vec<_>>(), [Some(20), Some(7), Some(5)]);
        assert!(settings.iter().all(|scale| scale.temperature == 0.5 && scale.top_p.is_none() && !scale.is_guided()));
        assert_eq!(SettingsLists::default().resolve(1, 2, &Condition::None).unwrap()[..], [ScaleSettings::default()]);
    }

    #[test]
    fn values_out_of_range_are_sentences() {
        let lists = SettingsLists::default;
        let cases = [
            (SettingsLists { temperature: vec![0.0], ..lists() }, "temperature = 0 at scale 1: it must be above 0"),
            (SettingsLists { temperature: vec![f32::NAN], ..lists() }, "temperature = NaN"),
            (SettingsLists { temperature: vec![1.0, -1.0, 1.0], ..lists() }, "temperature = -1 at scale 2"),
            (SettingsLists { top_k: vec![21], ..lists() }, "top_k = 21 at scale 1: it must be 1 to 20"),
            (SettingsLists { top_k: vec![0], ..lists() }, "top_k = 0"),
            (SettingsLists { top_p: vec![0.0], ..lists() }, "top_p = 0 at scale 1"),
            (SettingsLists { top_p: vec![1.0, 1.0, 1.5], ..lists() }, "top_p = 1.5 at scale 3"),
            (SettingsLists { guidance: vec![-0.5], ..lists() }, "guidance = -0.5"),
            (SettingsLists { top_k: vec![1, 2], ..lists() }, "top_k lists 2 values; give one for all scales, or 3"),
        ];
        for (lists, part) in cases {
            let fault = fault(lists, CLASSES);
            assert!(fault.contains(part), "{fault}");
        }
    }

    #[test]
    fn guidance_needs_a_null_condition() {
        let guided = SettingsLists { guidance: vec![3.0], ..SettingsLists::default() };
        assert!(guided.resolve(3, 20, &CLASSES).is_ok());
        assert!(
            fault(guided.clone(), Condition::Class { classes: 10, null: false }).contains("needs a null condition")
        );
        assert!(fault(guided, Condition::None).contains("guidance = 3"));
        let plain = SettingsLists { guidance: vec![1.0], ..SettingsLists::default() };
        assert!(plain.resolve(3, 20, &Condition::None).is_ok());
    }
}
